"""Where in a patch the evidence for IDC+ lies."""
