"""The column types that every reader of Delta tables knows."""

import pyarrow as pa


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type by which every Delta reader knows a column; None when there is none.

    Unsigned integers get the next larger signed type, timestamps become microseconds in UTC (one
    without a time zone is taken as UTC), a column of nulls becomes text. A struct needs a
    field, and names that differ in more than case.
    """
    types = pa.types
    kind = value_type(kind)
    if is_text(kind) or types.is_null(kind):
        return pa.string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_unsigned_integer(kind):
        larger = {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}
        return larger.get(kind.bit_width, pa.decimal128(20, 0))
    if types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    if types.is_float16(kind):
        return pa.float32()
    if types.is_date(kind):
        return pa.date32()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = plain_type(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(kind):
        plain = [(field.name, plain_type(field.type)) for field in kind]
        is_distinct = 0 < len(plain) == len({name.lower() for name, _ in plain})
        is_known = is_distinct and all(inner is not None for _, inner in plain)
        return pa.struct(plain) if is_known else None
    is_known = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    return kind if is_known or types.is_decimal128(kind) else None


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values that a dictionary or an extension type stands for."""
    if isinstance(kind, pa.BaseExtensionType):
        return value_type(kind.storage_type)
    return value_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, however it is laid out."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
