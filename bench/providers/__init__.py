"""What reading providers' streams costs, against splitting bytes and against the providers' own SDKs."""
