"""The compiled modules, one for each instruction set and dtype, and `runtime`; fusegrad._engine.dispatch chooses."""
