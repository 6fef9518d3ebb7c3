// What is added to the score of a query and a key, and which keys count. The kernel's Params hold the strides of bias,
// 0 along dimensions that it is repeated along, and the length of the mask of one image, 0 if all share one.
const HAS_BIAS: bool = false;
const HAS_MASK: bool = false;

fn bias_at(image: u32, head: u32, query: u32, key: u32) -> f32 {
    let at = image * p.bias_image + head * p.bias_head + query * p.bias_query + key * p.bias_key;
    return decode_bias(bias[at / 4u])[at % 4u];
}

fn is_hidden(image: u32, key: u32) -> bool {
    let at = image * p.mask_image + key;
    return decode_mask(mask[at / 4u])[at % 4u] == 0.0;
}
