"""The first bytes of a file -> the format of the image.

In: the bytes. Out: the name of a format that is read or of a well-known format that is not read; None for text,
archives, video, documents and everything else.
Not here: whether the rest of the file is sound.
"""

from __future__ import annotations

import re

READ = {
    "JPEG": rb"\xff\xd8\xff", "PNG": rb"\x89PNG\r\n\x1a\n(?!....CgBI)", "WebP": rb"RIFF....WEBP", "BMP": rb"BM",
    "GIF": rb"GIF8[79]a", "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",  # with a plus sign: BigTIFF
}
NOT_READ = {
    "AVIF, HEIF, JPEG 2000, JPEG XL or Canon's CR3, by the brands of ISO 14496-12": rb"....ftyp(?:....){0,20}?"
    rb"(?:avi[fs]|av01|hei[cxms]|hev[cxms]|mi[fa][12f]|msf1|avc[is]|vvic|j2[ki]s|jp[2xmh] |jxl |crx )",
    "JPEG 2000": rb"\0\0\0\x0cjP(?:  |\x1a\x1a)\r\n\x87\n|\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a",
    "JPEG XR": rb"II\xbc[\0\1]",
    "PNG as iOS packs it": rb"\x89PNG\r\n\x1a\n....CgBI",
    "MNG or JNG": rb"\x8a[MJ]NG\r\n\x1a\n|\x8bJNG\r\n\x1a\n",
    "Photoshop": rb"8BPS\0[\x01\x02]",
    "GIMP": rb"gimp xcf ",
    "icon or cursor of Windows": rb"\0\0[\1\2]\0[^\0]\0..?.?\0",
    "icon of macOS": rb"icns",
    "Netpbm": rb"P[1-6Ff](?:\s+(?:#[^\n]*\n\s*)*-?[\d.]+){2}\s|P7\nWIDTH",
    "PCX": rb"\x0a[\0-\5][\0\1][\1\2\4\x08]",
    "SGI": rb"\x01\xda[\0\1][\1\2]\0[\1-\3]",
    "Sun raster": rb"\x59\xa6\x6a\x95",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?R(?:ADIANCE|GBE)",
    "DirectDraw surface or Khronos texture": rb"DDS \x7c\0|\xabKTX [12]",
    "QOI, FLIF, BPG or farbfeld": rb"qoif|FLIF|BPG\xfb|farbfeld",
    "FITS": rb"SIMPLE  =",
    "DICOM": rb".{128}DICM",
    "DjVu": rb"AT&TFORM....DJV",
    "Amiga IFF": rb"FORM....(?:ILBM|PBM )",
    "XPM or XBM": rb"/\* XPM \*/|#define \w+_width \d",
    "SVG": rb"(?:\xef\xbb\xbf)?(?:\s+|<!--(?>.*?-->)|<[?!](?!--)[^>]*>)*+<svg[\s>]",
    "EPS": rb"%!PS-Adobe-\d\.\d EPSF|\xc5\xd0\xd3\xc6",
    "Windows metafile": rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF",
    "camera raw": rb"IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|FOVb|II\x1a\0\0\0HEAPCCDR|\0MRM",
}
_SIGNATURES = [(name, re.compile(pattern, re.DOTALL)) for name, pattern in (READ | NOT_READ).items()]


def detect_image_format(encoded: bytes) -> str | None:
    """A key of `READ` or of `NOT_READ`; None if the bytes begin no known format."""
    head = encoded[:2048]
    return next((name for name, signature in _SIGNATURES if signature.match(head)), None)
