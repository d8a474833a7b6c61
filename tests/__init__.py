"""The tests, and the helpers they share: imported as tests.checkpoints and tests.meta_reference."""
