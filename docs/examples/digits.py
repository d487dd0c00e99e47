"""Write small pictures of digits, a folder for each class (`digits/even/0002.png`): 30 to digits/, 10 to new/."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number, (image_HW, digit) in enumerate(zip(digits.images[:40], digits.target[:40], strict=True)):
    folder = Path("digits" if number < 30 else "new") / ("odd" if digit % 2 else "even")
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image_HW * 15)).resize((96, 96)).save(folder / f"{number:04}.png")
