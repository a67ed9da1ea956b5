"""What writes or measures parts of this repository; nothing in nemo_pi imports it."""
