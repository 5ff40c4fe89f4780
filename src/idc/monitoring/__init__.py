"""Do new data look like those a model learnt from?"""
