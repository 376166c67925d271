#include "cpu/embed.h"

#include "cpu/elementwise.h"
#include "reference/reference.h"

namespace imp::cpu {

std::string_view run_embed(const CpuContext& context, const EmbedArgs& args) {
  for_ranges(context, args.out.rows, args.out.rows * args.out.cols, [&](Range rows) {
    EmbedArgs part = args;
    part.ids += rows.begin;
    part.out.data = args.out.row<float>(rows.begin);
    part.out.rows = rows.end - rows.begin;
    reference::embed(part);
  });
  return "embed_rows";
}

}  // namespace imp::cpu
