"""Attribution methods: from a patch to maps."""
