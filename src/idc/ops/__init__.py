"""Services, process groups and the doctor of one machine."""
