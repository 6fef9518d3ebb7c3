// ceilings, matrix_8_f16: how many 8 × 8 × 8 products of f16 with f32 sums there are in a second;
// y = 4 · rounds · a · b
//
//   a, b  [SIDE, SIDE]         f16
//   y     [SLOTS, SIDE, SIDE]  f32
// dispatch:   one workgroup, which is one subgroup, computes 4 · rounds products and writes the slot x % SLOTS
// requires:   cooperative matrices of this shape (wgpu's EXPERIMENTAL_COOPERATIVE_MATRIX), subgroups of LANES
//             invocations
// constants:  LANES: the subgroup size; SIDE and SLOTS are fixed
// error:      none: every value is a small whole number
// source:     Vulkan's VK_KHR_cooperative_matrix, Metal's simdgroup_matrix
enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 8u;
alias number = f16;
alias left = coop_mat8x8<f16, A>;
alias right = coop_mat8x8<f16, B>;
alias sums = coop_mat8x8<f32, C>;

//!include matrix_chains
