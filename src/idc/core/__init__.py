"""What every part stands on: parameters, paths, errors, files, processes."""
