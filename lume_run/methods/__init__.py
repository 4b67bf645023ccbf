"""Methods: a forget objective plus a retain regulariser, pure functions of `Signals`."""
