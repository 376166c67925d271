#include "quant/format.h"
#include "reference/reference.h"

namespace imp::reference {

void embed(const EmbedArgs& args) {
  const int64_t cols = args.table.cols;
  const int64_t bytes = row_bytes(args.table.format, cols);
  const float scale = args.scale * args.table.scale;
  for (int64_t t = 0; t < args.out.rows; ++t) {
    float* out = args.out.row<float>(t);
    const int32_t id = args.id(t);
    assert(id >= 0 && id < args.table.rows);
    dequantize(args.table.format, static_cast<const std::byte*>(args.table.data) + id * bytes, out, cols);
    for (int64_t c = 0; c < cols; ++c) out[c] *= scale;
  }
}

}  // namespace imp::reference
