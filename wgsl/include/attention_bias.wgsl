// The bias added to the score of a query and a key, and the mask of keys. The kernel's Params hold the strides of the
// bias, 0 along dimensions where it is repeated, and the length of one image's mask, 0 if all images share one.
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
