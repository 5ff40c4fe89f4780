-- Run once by PostgreSQL's image, when its volume is empty: each tool upgrades a database of its own.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
