"""The model and the loop. Start reading at `selfplay.loop`."""
