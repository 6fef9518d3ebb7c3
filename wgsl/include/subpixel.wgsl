// A 3x3 window over a picture in which each pixel of x is repeated twice along each axis: y in four parts.
//
// Output pixels of odd or even row and column see the same 2x2 pixels of x, some of which lie under several taps. So
// each part is a convolution of x itself with a 2x2 window, whose weights are sums of one, two or four: 4 multiply-adds
// for each output in place of 9. Part 2 a + b is that of rows 2 i + a and columns 2 j + b. Along one axis, output 2 i
// sees pixels i - 1 (tap 0) and i (taps 1 and 2), output 2 i + 1 pixels i (taps 0 and 1) and i + 1 (tap 2).
//
// Source: Shi and others 2016, "Is the deconvolution layer the same as a convolutional layer?"
const SUBPIXEL: bool = false;

// The part of y that this workgroup computes.
var<private> part_of_y: u32;

// How far the window of a part lies from that of part 0.
fn part_offset() -> vec3<u32> { return vec3<u32>(0u, part_of_y / 2u, part_of_y % 2u); }

// Of the three taps along an axis the first that lies over pixel s (0 or 1) of those that part a sees, and whether the
// next one does too.
fn first_tap(a: u32, s: u32) -> u32 { return s + a * s; }
fn two_taps(a: u32, s: u32) -> bool { return a != s; }

// The number of rows of y, of which each part has M.
fn rows_of_y(M: u32) -> u32 { return select(M, 4u * M, SUBPIXEL); }

// The row of y that is row m of this part.
fn row_of_y(m: u32) -> u32 {
    if (!SUBPIXEL) { return m; }
    let at = position(m);
    return ((at.x * p.OH + at.z) * 2u + part_of_y / 2u) * 2u * p.OW + 2u * at.w + part_of_y % 2u;
}
