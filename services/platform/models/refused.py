"""Why a model file is not served."""


class ModelRefused(ValueError):
    """An unusable model file; the message gives the reason. The model in use is kept."""
