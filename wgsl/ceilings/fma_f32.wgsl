// ceilings, fma_f32: how many 32-bit multiply-adds there are in a second; y = CHAINS · (slot + 2 · rounds) + 0 + 1 + ..
//
//   y  [SLOTS, 4]  f32
// dispatch:   one invocation does rounds · 16 · CHAINS · 4 multiply-adds and writes the slot id.x % SLOTS
// requires:   nothing
// constants:  CHAINS independent vectors: 2 or 4; UPS, DOWNS and SLOTS are fixed
// error:      none: every value is a small whole number
// source:     Williams, Waterman and Patterson 2009, "Roofline": the horizontal ceiling

alias number = f32;

//!include fma_chains
