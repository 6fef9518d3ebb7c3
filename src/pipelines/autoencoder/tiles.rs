//! Pictures in overlapping tiles, so that memory does not grow with the picture; their seams are blended (diffusers'
//! `tiled_decode`, `tiled_encode`).

use std::collections::HashMap;

use crate::error::Result;
use crate::graph::{Graph, TensorDesc};
use crate::pipelines::Runtime;
use crate::session::Session;
use crate::tensor::HostTensor;

/// Neighbouring tiles share a quarter of their rows or columns.
const OVERLAP: usize = 4;

/// The input's tiles, and the seams between the output's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiles {
    /// Rows and columns of a tile; those at the bottom and at the right are smaller.
    pub size: usize,
    /// Rows and columns of a result's tile.
    pub out_size: usize,
}

/// One tile: its place, and its result `[1, H, W, C]`.
struct Tile {
    row: usize,
    column: usize,
    input: HostTensor,
}

impl Tiles {
    /// Distance between tiles.
    fn step(&self) -> usize {
        self.size - self.size / OVERLAP
    }

    /// What `load` makes of `x` `[1, H, W, C]` tile by tile: it returns a session for a tile of the given height and
    /// width, with the input `x` and the output `y`. One session serves all tiles of one size.
    pub fn run<'s>(
        &self,
        runtime: &Runtime<'_>,
        x: &HostTensor,
        load: impl Fn(usize, usize) -> Result<Box<dyn Session + 's>>,
    ) -> Result<HostTensor> {
        // 1. every tile on its own; tiles of one size one after the other
        let (rows, columns) = (x.shape[1].div_ceil(self.step()), x.shape[2].div_ceil(self.step()));
        let mut by_size: HashMap<Vec<usize>, Vec<Tile>> = HashMap::new();
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let input = window(x, [row * self.step(), column * self.step()], [self.size; 2]);
            by_size.entry(input.shape.clone()).or_default().push(Tile { row, column, input });
        }
        let mut results: Vec<Vec<Option<HostTensor>>> = vec![vec![None; columns]; rows];
        for (shape, tiles) in by_size {
            let mut session = load(shape[1], shape[2])?;
            for tile in tiles {
                session.write("x", &tile.input)?;
                session.run()?;
                results[tile.row][tile.column] = Some(session.read("y")?);
            }
        }

        // 2. each seam, from top left to bottom right: a tile's neighbours are blended before it is
        let mut seams = Seams { runtime, extent: self.out_size / OVERLAP, sessions: HashMap::new() };
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let [above, left] = [(row > 0).then(|| (row - 1, column)), (column > 0).then(|| (row, column - 1))]
                .map(|at| at.and_then(|(row, column)| results[row][column].as_ref()));
            let tile = results[row][column].as_ref().expect("every tile was run above");
            let blended = seams.blend(tile, above, left)?;
            results[row][column] = Some(blended);
        }

        // 3. side by side what no later tile covers
        let limit = self.out_size - self.out_size / OVERLAP;
        let cropped = |row: &Vec<Option<HostTensor>>| -> Result<HostTensor> {
            let tiles: Vec<_> = row.iter().flatten().map(|tile| window(tile, [0, 0], [limit; 2])).collect();
            HostTensor::concat(&tiles.iter().collect::<Vec<_>>(), 2)
        };
        let rows = results.iter().map(cropped).collect::<Result<Vec<_>>>()?;
        HostTensor::concat(&rows.iter().collect::<Vec<_>>(), 1)
    }
}

/// Sessions that blend one tile with its neighbours, one for each combination of sizes.
struct Seams<'a> {
    runtime: &'a Runtime<'a>,
    /// Rows and columns that neighbours share.
    extent: usize,
    sessions: HashMap<[Option<Vec<usize>>; 3], Box<dyn Session>>,
}

impl Seams<'_> {
    fn blend(&mut self, x: &HostTensor, above: Option<&HostTensor>, left: Option<&HostTensor>) -> Result<HostTensor> {
        let inputs = [("x", Some(x)), ("above", above), ("left", left)];
        let key = inputs.map(|(_, tensor)| tensor.map(|t| t.shape.clone()));
        if !self.sessions.contains_key(&key) {
            let mut graph = Graph::new();
            let [x, above, left] =
                inputs.map(|(name, tensor)| tensor.map(|t| graph.input(name, TensorDesc::f32(t.shape.clone()))));
            let x = x.expect("the first is always given");
            let shared = |neighbour: Option<_>, axis: usize| {
                neighbour.map_or(0, |v| self.extent.min(graph.shape(v)[axis]).min(graph.shape(x)[axis]))
            };
            let extent = [shared(above, 1), shared(left, 2)];
            let y = graph.blend_tiles("seam", x, above, left, extent)?;
            graph.output("y", y);
            let session = self.runtime.device.load(graph, &HashMap::new(), self.runtime.load)?;
            self.sessions.insert(key.clone(), session);
        }
        let session = self.sessions.get_mut(&key).expect("inserted above");
        for (name, tensor) in inputs {
            if let Some(tensor) = tensor {
                session.write(name, tensor)?;
            }
        }
        session.run()?;
        session.read("y")
    }
}

/// At most `size` rows and columns of `x` `[1, H, W, C]` from `start` on.
fn window(x: &HostTensor, start: [usize; 2], size: [usize; 2]) -> HostTensor {
    let (h, w, c) = (x.shape[1], x.shape[2], x.shape[3]);
    let (rows, columns) = (size[0].min(h - start[0]), size[1].min(w - start[1]));
    let row = |i: usize| &x.data[((start[0] + i) * w + start[1]) * c..][..columns * c];
    HostTensor { shape: vec![1, rows, columns, c], data: (0..rows).flat_map(row).copied().collect() }
}
