// A tile of a block: `rows` rows, at most 128, from `row` on, of `expert`; `shared`: the other tile of
// the cluster is the next one of the same expert.
struct Tile {
  int row;
  int rows;
  int expert;
  int shared;
};
