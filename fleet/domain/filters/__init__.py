"""Which devices are meant: one small language, read once, then asked of a device's facts or of a database.

    hw == "jetson-orin" and attributes.site in ("a", "b") and capabilities.ram_mb >= 2048 and not group("beta")

Every part of a filter is true or false of a device, never unknown: a value that a device does not have, or that is of
another type, equals nothing, is no larger and no smaller than anything, and `!=` is exactly `not ... ==`. Text is
compared by its code points, so case and accents count; only numbers have an order.

`parser` makes the syntax tree, `predicate` asks a device's facts, `sql` asks SQLite and PostgreSQL; the tests prove
that all three agree. A filter is at most so long, so deep and so large (`syntax`), so none costs more than its limit.
"""
