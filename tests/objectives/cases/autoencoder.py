"""Denoising autoencoders of every bottleneck, with the encoder or layers of its own as the decoder."""

import torch
from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.autoencoder import AutoencoderConfig, AutoencoderSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.autoencoder import DenoisingAutoencoder


def case(name, **options):
    config = AutoencoderConfig(autoencoder=AutoencoderSection(**options))

    def make():
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
        module = DenoisingAutoencoder(PackedModel(model, True), TOKENIZER, config).double()
        with torch.no_grad():
            for parameter in module.injection.parameters():
                parameter *= 5  # so that another document's vector is worth a good deal less
        return module

    # of held-out rows, so that their batches also have other documents
    return SplitCase(make, lambda: DenoisingAutoencoder.collator(TOKENIZER, config, seed=SEED, source=1))


CASES = {
    "autoencoder modernbert": case("modernbert"),
    "autoencoder deberta-v2, first token": case("deberta-v2", pooling="cls"),
    "autoencoder bert, variational": case("bert", bottleneck="variational", latent_size=8, annealing_steps=5),
    "autoencoder bert, sparse, own decoder": case("bert", bottleneck="sparse", decoder_layers=1),
}
