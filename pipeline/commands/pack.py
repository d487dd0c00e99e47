"""`label-images pack`: a folder of images -> tar shards."""

from __future__ import annotations

from pipeline.config import Count


def pack(
    *, input: str, output: str, members: str | None = None, images_per_shard: Count = 1000, prefix: str = "images"
) -> int:
    """Pack a folder of images into tar shards.

    The shards are WebDataset's, and label-images run reads them.

    ```
    label-images pack --input photos/ --output shards/
    label-images pack --input photos/ --output shards/ --members cls,json
    ```

    The key of photos/a/1.jpg is a/1. With --members cls,json the files a/1.cls and a/1.json, or a/1.jpg.json, go along
    behind it, so that --truth member:cls of label-images evaluate, finetune and train finds them. What lies beside
    images and is not packed is counted. A run that was ended is completed by the next. Two shards are in memory at a
    time.

    Exit status: 0 packed, 2 wrong usage, or a file that cannot be read or written: the message says which.

    Args:
        input: A folder of images, searched recursively.
        output: Where the shards go, and nothing else is written. It may lie in the input, but is not the input.
        members: Take along the texts beside each image that have one of these suffixes, such as cls,txt,json. A text is
            at most 4 MiB (default: images alone).
        images_per_shard: How many images a shard has; the last shard may have fewer.
        prefix: Of the shards' names: PREFIX-00000.tar, and so on.
    """
    from pipeline.inputs import pack as packing

    packed = packing.pack(input, output, images_per_shard, prefix, () if members is None else members.split(","))
    texts = f" and {packed.num_texts:,} texts beside them" if packed.members else ""
    print(
        f"{packed.num_images:,} images{texts} in {packed.num_shards:,} shards at {output}"
        f" ({packed.num_kept:,} of them were there before)"
    )
    for sentence in packed.sentences():
        print(f"left out: {sentence}")
    return 0
