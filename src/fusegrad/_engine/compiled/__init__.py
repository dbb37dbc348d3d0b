"""The compiled modules, one per instruction set and dtype, and `runtime`; fusegrad._engine.dispatch chooses."""
