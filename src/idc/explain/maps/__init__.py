"""Methods of explanation: from a patch to maps."""
