"""The program `handgrad`: train, check, predict. Needs the extra `app`."""
