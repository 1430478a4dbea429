//! Load drivers and the oracles that check every answer.
