"""A machine when there is none: image, payload, QEMU, and what runs inside."""
