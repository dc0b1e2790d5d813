"""Other libraries, imported in spite of what they warn of while they are."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sae_lens
    import sae_lens.saes.jumprelu_sae
    import sae_lens.saes.sae

__all__ = ["sae_lens"]
