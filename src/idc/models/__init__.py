"""The networks: backbones, their fusion, the colour baseline, and a trained model as a folder."""
