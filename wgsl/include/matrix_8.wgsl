// Matrices of 8 x 8 that the invocations of a subgroup have together: which invocation has which element, only the
// device knows. A product of two of f16 is added to one of f32.
alias matrix_a = coop_mat8x8<f16, A>;
alias matrix_b = coop_mat8x8<f16, B>;
alias matrix_c = coop_mat8x8<f32, C>;
