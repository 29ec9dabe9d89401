"""What the readers of data sets yield; ids are strings where the format does not demand numbers."""

import pyarrow as pa

CAPTIONS = pa.schema(  # an image and what people said of it
    [
        ("image_id", pa.string()),
        ("file", pa.string()),  # below the folder of images; null where the format does not say
        ("split", pa.string()),  # null where the format has none
        ("captions", pa.list_(pa.string())),
    ]
)
PAIRS = pa.schema(  # an image and a hypothesis about it
    [
        ("pair_id", pa.string()),
        ("image_id", pa.string()),
        ("premise", pa.string()),  # a caption of the image
        ("hypothesis", pa.string()),
        ("label", pa.string()),  # entailment, neutral, contradiction; null where nobody knows
    ]
)
TEXTS = pa.schema(  # a query and the images it describes
    [("text_id", pa.int64()), ("text", pa.string()), ("image_ids", pa.list_(pa.int64()))]
)
ENCODED_IMAGES = pa.schema([("image_id", pa.int64()), ("image", pa.binary())])
PICTURES = pa.schema(  # an image and its class
    [("image", pa.string()), ("class", pa.int32())]  # path below the data set's folder of images
)
