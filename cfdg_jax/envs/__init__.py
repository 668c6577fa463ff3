"""Environments: many copies of one task stepped at once; the only place that imports gymnasium and mujoco."""

import os


def _import_mujoco() -> None:
    """Imports MuJoCo whatever ``MUJOCO_GL`` says: nothing here renders, but MuJoCo loads that library on import."""
    try:
        import mujoco
    except Exception:
        if "MUJOCO_GL" not in os.environ:
            raise
        given, os.environ["MUJOCO_GL"] = os.environ["MUJOCO_GL"], "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            os.environ["MUJOCO_GL"] = given


_import_mujoco()
