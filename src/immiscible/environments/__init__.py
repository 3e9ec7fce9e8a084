"""Where policies act: the simulator of Push-T, roll-outs in it, and a toy whose law is known."""
