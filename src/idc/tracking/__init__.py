"""What MLflow is told; with `idc.serving` the only importer of mlflow.

DVC restores results without running commands, so whatever must reach MLflow is reconciled:
`publishing.publish_result` looks at what the store holds and adds what is missing, and calling it
twice changes nothing. `live.live_run` shows a training while it runs.
"""
