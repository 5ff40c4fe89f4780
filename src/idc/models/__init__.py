"""The networks: backbones, their fusion, the colour floor, and a trained model as a folder."""
