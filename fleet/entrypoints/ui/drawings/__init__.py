"""Geometry of the pages' drawings, in per cent of the width, so that a template needs no arithmetic and no styles."""
