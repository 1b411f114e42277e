"""Phantom CT, MRI and X-ray images with organs, lesions, boxes and questions, in SLAKE's own format.

    python -m processing.phantom FOLDER --num_images 60 --seed 0 --image_size 224
    python -m processing.phantom FOLDER --num_images 240 --slices 4

Everything is drawn from a seed with numpy and Pillow, so it needs no download and every answer is known to be true.
"""

from processing.phantom.files import MIN_IMAGES, cached_phantoms, write_phantoms

__all__ = ["MIN_IMAGES", "cached_phantoms", "write_phantoms"]
