"""From the manifest to subsets that share no case."""
