"""Kernel sources to a bootable image; each stage can be used alone."""
