// Matrices of 16 x 16 that the invocations of a subgroup have together: which invocation has which element, only the
// device knows. A product of two of f16 is added to one of f32.
alias matrix_a = coop_mat16x16<f16, A>;
alias matrix_b = coop_mat16x16<f16, B>;
alias matrix_c = coop_mat16x16<f32, C>;
