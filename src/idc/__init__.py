"""Learn invasive ductal carcinoma (IDC) from breast-histopathology patches, reproducibly."""
