"""All attacks, whichever module makes them."""

from tests.hostile import (
    attacks_filling,
    attacks_folders,
    attacks_graphs,
    attacks_home,
    attacks_late,
    attacks_media,
    attacks_more,
    attacks_names,
    attacks_paths,
    attacks_prompts,
    attacks_settings,
    attacks_tables,
    attacks_weights,
)
from tests.hostile.attacks import ATTACKS as ATTACKS

MADE_BY = (attacks_media, attacks_more, attacks_prompts, attacks_settings, attacks_weights,
           attacks_filling, attacks_folders, attacks_graphs, attacks_home,
           attacks_late, attacks_names, attacks_paths, attacks_tables)  # fmt: skip
