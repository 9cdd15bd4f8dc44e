"""Codecs of the protocols Clew speaks: bytes in, values out, no IO."""
