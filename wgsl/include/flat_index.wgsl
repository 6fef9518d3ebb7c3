// The position of an invocation in a one-dimensional range that was dispatched as rows of workgroups
// (a dispatch may have at most 65535 workgroups in one dimension).
fn flat_index(workgroup: vec3<u32>, workgroups: vec3<u32>, local: u32, workgroup_size: u32) -> u32 {
    return (workgroup.y * workgroups.x + workgroup.x) * workgroup_size + local;
}
