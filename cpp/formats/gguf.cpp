#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "formats/quoted.h"

namespace imp {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian and read in place");

namespace {

// Value types of the metadata.
enum class ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
constexpr uint32_t kNumValueTypes = 13;

// Bytes of one value in the file; for a string, of an empty one. 0: not a value that an array may hold.
constexpr uint64_t min_value_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return 1;
    case ValueType::u16:
    case ValueType::i16: return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32: return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
    case ValueType::string: return 8;
    case ValueType::array: return 0;
  }
  return 0;
}

// The smallest a key-value pair and a tensor's description can be: these bound what the counts may claim.
constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

/// A position in the header. Every read is checked against the end, and copies: the file may change under the
/// mapping, so a value that was checked is never fetched again.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return file_.size() - offset_; }

  /// What is being read, for messages: "key \"general.name\"". Empty: the file header.
  void set_subject(std::string subject) { subject_ = std::move(subject); }

  template <class... Parts>
  [[noreturn]] void reject(ErrorCode code, uint64_t at, const Parts&... parts) const {
    fail(code, name_, ": byte ", at, ": ", subject_, subject_.empty() ? "" : ": ", parts...);
  }
  template <class... Parts>
  [[noreturn]] void damaged(uint64_t at, const Parts&... parts) const {
    reject(ErrorCode::invalid_model, at, parts...);
  }

  template <class T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  /// A length and that many bytes. The length is compared with `max_bytes` and the rest of the file before anything
  /// is allocated.
  std::string read_string(uint64_t max_bytes, std::string_view what) {
    const uint64_t at = offset_;
    const auto size = read<uint64_t>(what);
    if (size > max_bytes) damaged(at, "the length of ", what, " is ", size, ", allowed are up to ", max_bytes);
    const std::span<const std::byte> bytes = take(size, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// Takes `size` from what is left of an allowance that the whole header shares.
  void spend(uint64_t& left, uint64_t size, uint64_t at, std::string_view what) const {
    if (size > left) damaged(at, "the file holds more ", what, " than imp accepts");
    left -= size;
  }

 private:
  std::span<const std::byte> take(uint64_t size, std::string_view what) {
    if (!range_fits(offset_, size, file_.size())) {
      damaged(offset_, "the file ends inside ", what, ": ", size, " bytes needed, ", remaining(), " left");
    }
    const std::span<const std::byte> bytes = file_.subspan(offset_, size);
    offset_ += size;
    return bytes;
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::string subject_;
  uint64_t offset_ = 0;
};

struct Counts {
  uint64_t tensors;
  uint64_t keys;
};

// Says what a file is that does not begin with "GGUF", where that is easy to tell.
std::string_view describe_magic(std::string_view magic) {
  if (magic == "lmgg" || magic == "tjgg" || magic == "fmgg") return "a GGML file from before GGUF; convert it again";
  if (magic == "FUGG") return "a byte-swapped GGUF file";
  if (magic == "vers") return "possibly a Git LFS pointer; fetch the file itself";
  if (magic == std::string_view("PK\x03\x04")) return "a ZIP archive, possibly a PyTorch checkpoint";
  if (magic == "<!DO" || magic == "<htm") return "an HTML page, possibly a failed download";
  return "not a GGUF file";
}

void read_magic_and_version(Reader& reader) {
  char magic[4];
  for (char& byte : magic) byte = reader.read<char>("the magic bytes \"GGUF\"");
  const std::string_view found(magic, sizeof magic);
  if (found != "GGUF") {
    reader.damaged(0, "expected the magic bytes \"GGUF\", found ", quoted(found), ": ", describe_magic(found));
  }
  const auto version = reader.read<uint32_t>("the format version");
  if (version == 3) return;
  if (version == 0) reader.damaged(4, "format version 0 does not exist");
  const uint32_t swapped = __builtin_bswap32(version);
  if (swapped >= 1 && swapped <= 3) {
    reader.reject(ErrorCode::unsupported, 4, "this GGUF file is big-endian (version ", swapped,
                  "); imp reads little-endian files, convert it on a little-endian machine");
  }
  reader.reject(ErrorCode::unsupported, 4, "GGUF version ", version, "; imp reads version 3",
                version < 3 ? ", convert the model again" : ", a newer imp may read it");
}

Counts read_counts(Reader& reader) {
  const uint64_t tensors_at = reader.offset();
  Counts counts = {};
  counts.tensors = reader.read<uint64_t>("the number of tensors");
  const uint64_t keys_at = reader.offset();
  counts.keys = reader.read<uint64_t>("the number of metadata keys");
  if (counts.tensors > kGgufMaxTensors) {
    reader.damaged(tensors_at, counts.tensors, " tensors claimed, allowed are up to ", kGgufMaxTensors);
  }
  if (counts.keys > kGgufMaxKeys) {
    reader.damaged(keys_at, counts.keys, " metadata keys claimed, allowed are up to ", kGgufMaxKeys);
  }
  // Both products are far from wrapping after the two limits above.
  const uint64_t least = counts.tensors * kMinTensorBytes + counts.keys * kMinPairBytes;
  if (least > reader.remaining()) {
    reader.damaged(tensors_at, counts.tensors, " tensors and ", counts.keys, " metadata keys claimed, at least ", least,
                   " bytes, but the file has ", reader.remaining(), " left");
  }
  return counts;
}

/// Metadata keys and values. The allowances run over the whole file.
class MetadataReader {
 public:
  explicit MetadataReader(Reader& reader) : reader_(reader) {}

  std::string read_key() {
    const uint64_t at = reader_.offset();
    reader_.set_subject("metadata key");
    std::string key = reader_.read_string(kGgufMaxKeyBytes, "a metadata key");
    if (key.empty()) reader_.damaged(at, "the key is empty");
    reader_.set_subject(cat("key ", quoted(key)));
    const bool visible = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (!visible) reader_.damaged(at, "keys consist of visible ASCII characters");
    reader_.spend(bytes_left_, key.size() + 8, at, "metadata text");
    return key;
  }

  MetaValue read_value() {
    const ValueType type = read_type();
    if (type == ValueType::array) return read_array();
    return read_scalar(type);
  }

 private:
  ValueType read_type() {
    const uint64_t at = reader_.offset();
    const auto id = reader_.read<uint32_t>("a value type");
    if (id >= kNumValueTypes) reader_.damaged(at, "value type ", id, " does not exist");
    return static_cast<ValueType>(id);
  }

  MetaValue read_scalar(ValueType type) {
    switch (type) {
      case ValueType::u8: return uint64_t{number<uint8_t>()};
      case ValueType::u16: return uint64_t{number<uint16_t>()};
      case ValueType::u32: return uint64_t{number<uint32_t>()};
      case ValueType::u64: return number<uint64_t>();
      case ValueType::i8: return int64_t{number<int8_t>()};
      case ValueType::i16: return int64_t{number<int16_t>()};
      case ValueType::i32: return int64_t{number<int32_t>()};
      case ValueType::i64: return number<int64_t>();
      case ValueType::f32: return double{number<float>()};
      case ValueType::f64: return number<double>();
      case ValueType::boolean: return boolean();
      case ValueType::string: return string();
      case ValueType::array: break;
    }
    reader_.damaged(reader_.offset(), "arrays inside arrays are not supported");
  }

  MetaValue read_array() {
    const uint64_t type_at = reader_.offset();
    const ValueType type = read_type();
    if (type == ValueType::array) reader_.damaged(type_at, "arrays inside arrays are not supported");
    const uint64_t count_at = reader_.offset();
    const auto count = reader_.read<uint64_t>("an array length");
    const std::optional<uint64_t> least = checked_mul(count, min_value_bytes(type));
    if (!least || *least > reader_.remaining()) {
      reader_.damaged(count_at, "an array of ", count, " values does not fit into the remaining ", reader_.remaining(),
                      " bytes");
    }
    reader_.spend(elements_left_, count, count_at, "array elements");
    switch (type) {
      case ValueType::u8: return numbers<uint64_t, uint8_t>(count);
      case ValueType::u16: return numbers<uint64_t, uint16_t>(count);
      case ValueType::u32: return numbers<uint64_t, uint32_t>(count);
      case ValueType::u64: return numbers<uint64_t, uint64_t>(count);
      case ValueType::i8: return numbers<int64_t, int8_t>(count);
      case ValueType::i16: return numbers<int64_t, int16_t>(count);
      case ValueType::i32: return numbers<int64_t, int32_t>(count);
      case ValueType::i64: return numbers<int64_t, int64_t>(count);
      case ValueType::f32: return numbers<double, float>(count);
      case ValueType::f64: return numbers<double, double>(count);
      case ValueType::boolean: return elements<bool>(count, [this] { return boolean(); });
      case ValueType::string: return elements<std::string>(count, [this] { return string(); });
      case ValueType::array: break;
    }
    reader_.damaged(type_at, "arrays inside arrays are not supported");
  }

  template <class Stored>
  Stored number() {
    return reader_.read<Stored>("a value");
  }

  bool boolean() {
    const uint64_t at = reader_.offset();
    const auto byte = number<uint8_t>();
    if (byte > 1) reader_.damaged(at, "a boolean is 0 or 1, found ", byte);
    return byte == 1;
  }

  std::string string() {
    const uint64_t at = reader_.offset();
    std::string text = reader_.read_string(std::min(kGgufMaxStringBytes, bytes_left_), "a string");
    reader_.spend(bytes_left_, text.size() + 8, at, "metadata text");
    return text;
  }

  template <class Element, class ReadOne>
  std::vector<Element> elements(uint64_t count, ReadOne read_one) {
    std::vector<Element> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) values.push_back(read_one());
    return values;
  }

  template <class Widened, class Stored>
  std::vector<Widened> numbers(uint64_t count) {
    return elements<Widened>(count, [this] { return static_cast<Widened>(number<Stored>()); });
  }

  Reader& reader_;
  uint64_t bytes_left_ = kGgufMaxMetadataBytes;
  uint64_t elements_left_ = kGgufMaxArrayElements;
};

/// The first index whose name occurs at a smaller one as well, or `count` where all names differ. Sorting, not hashing:
/// a file made of colliding names must not cost more than any other.
template <class NameOf>
size_t find_duplicate(size_t count, NameOf name_of) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto by_name = name_of(a) <=> name_of(b);
    return by_name != 0 ? by_name < 0 : a < b;
  });
  size_t duplicate = count;
  for (size_t i = 1; i < count; ++i) {
    if (name_of(order[i - 1]) == name_of(order[i])) duplicate = std::min(duplicate, order[i]);
  }
  return duplicate;
}

void read_metadata(Reader& reader, uint64_t count, GgufContents& contents) {
  MetadataReader metadata(reader);
  std::vector<uint64_t> offsets;
  contents.metadata.reserve(count);
  offsets.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    offsets.push_back(reader.offset());
    std::string key = metadata.read_key();
    MetaValue value = metadata.read_value();
    if (key == "general.alignment") {
      // The one key that the reader itself obeys.
      const auto* alignment = std::get_if<uint64_t>(&value);
      if (!alignment) reader.damaged(offsets.back(), "expected an unsigned integer");
      if (!std::has_single_bit(*alignment) || *alignment < 8 || *alignment > kGgufMaxAlignment) {
        reader.damaged(offsets.back(), "expected a power of two from 8 to ", kGgufMaxAlignment, ", found ", *alignment);
      }
      contents.alignment = *alignment;
    }
    contents.metadata.emplace_back(std::move(key), std::move(value));
  }
  const auto key_of = [&](size_t i) -> std::string_view { return contents.metadata[i].first; };
  const size_t duplicate = find_duplicate(count, key_of);
  if (duplicate == count) return;
  reader.set_subject(cat("key ", quoted(key_of(duplicate))));
  reader.damaged(offsets[duplicate], "the key occurs twice");
}

// Names of tensor types that exist but that imp does not decode.
std::string_view foreign_type_name(uint32_t id) {
  switch (id) {
    case 4: return "Q4_2";
    case 5: return "Q4_3";
    case 9: return "Q8_1";
    case 15: return "Q8_K";
    case 16: return "IQ2_XXS";
    case 17: return "IQ2_XS";
    case 18: return "IQ3_XXS";
    case 19: return "IQ1_S";
    case 21: return "IQ3_S";
    case 22: return "IQ2_S";
    case 24: return "I8";
    case 25: return "I16";
    case 26: return "I32";
    case 27: return "I64";
    case 28: return "F64";
    case 29: return "IQ1_M";
    case 31: return "Q4_0_4_4";
    case 32: return "Q4_0_4_8";
    case 33: return "Q4_0_8_8";
    case 34: return "TQ1_0";
    case 35: return "TQ2_0";
    case 36: return "IQ4_NL_4_4";
    case 37: return "IQ4_NL_4_8";
    case 38: return "IQ4_NL_8_8";
    case 41: return "Q1_0";
    default: return {};
  }
}

WeightFormat read_format(Reader& reader) {
  const uint64_t at = reader.offset();
  const auto id = reader.read<uint32_t>("a tensor type");
  if (const std::optional<WeightFormat> format = format_of_ggml_type(id)) return *format;
  const std::string_view name = foreign_type_name(id);
  if (name.empty()) reader.damaged(at, "tensor type ", id, " is unknown");
  std::string known;
  for (const FormatInfo& format : all_formats()) known += cat(known.empty() ? "" : ", ", format.name);
  reader.reject(ErrorCode::unsupported, at, "weight format ", name, " (type ", id, "); imp has ", known);
}

/// The dimensions, turned round: GGUF stores the innermost first.
std::vector<int64_t> read_shape(Reader& reader) {
  const uint64_t count_at = reader.offset();
  const auto count = reader.read<uint32_t>("the number of dimensions");
  if (count < 1 || count > kGgufMaxDims) {
    reader.damaged(count_at, count, " dimensions, expected 1 to ", kGgufMaxDims);
  }
  std::vector<int64_t> shape(count);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t at = reader.offset();
    const auto size = reader.read<uint64_t>("a dimension");
    if (size < 1) reader.damaged(at, "dimension ", i, " is 0");
    const std::optional<uint64_t> product = checked_mul(elements, size);
    if (!product || *product > kGgufMaxElements) {
      reader.damaged(at, "dimension ", i, " is ", size, ": more than 2^48 elements");
    }
    elements = *product;
    shape[count - 1 - i] = static_cast<int64_t>(size);
  }
  return shape;
}

/// A tensor as the header describes it, before the start of the data is known.
struct TensorClaim {
  uint64_t described_at;  // offset of the description in the header
  uint64_t data_offset;   // relative to the start of the data
  uint64_t data_bytes;
};

TensorClaim read_tensor(Reader& reader, uint64_t alignment, TensorInfo& tensor) {
  TensorClaim claim = {};
  claim.described_at = reader.offset();
  reader.set_subject("tensor description");
  tensor.name = reader.read_string(kGgufMaxNameBytes, "a tensor name");
  if (tensor.name.empty()) reader.damaged(claim.described_at, "the tensor name is empty");
  reader.set_subject(cat("tensor ", quoted(tensor.name)));
  if (!is_printable_utf8(tensor.name)) {
    reader.damaged(claim.described_at, "tensor names are UTF-8 without control characters");
  }
  const uint64_t shape_at = reader.offset();
  tensor.shape = read_shape(reader);
  tensor.format = read_format(reader);
  const FormatInfo& format = info(tensor.format);
  const auto cols = static_cast<uint64_t>(tensor.shape.back());
  if (cols % static_cast<uint64_t>(format.block_elements) != 0) {
    reader.damaged(shape_at, "rows of ", cols, " elements, but ", format.name, " has blocks of ",
                   format.block_elements);
  }
  const auto blocks = static_cast<uint64_t>(tensor.num_elements()) / static_cast<uint64_t>(format.block_elements);
  const std::optional<uint64_t> bytes = checked_mul(blocks, static_cast<uint64_t>(format.block_bytes));
  if (!bytes) reader.damaged(shape_at, "the size of the data overflows");
  claim.data_bytes = *bytes;
  const uint64_t offset_at = reader.offset();
  claim.data_offset = reader.read<uint64_t>("a data offset");
  if (claim.data_offset % alignment != 0) {
    reader.damaged(offset_at, "data offset ", claim.data_offset, " is not a multiple of the alignment ", alignment);
  }
  return claim;
}

/// Gives each tensor its bytes, after proof that they are in the file and that no two tensors share any.
void place_tensors(Reader& reader, std::span<const std::byte> file, const std::vector<TensorClaim>& claims,
                   GgufContents& contents) {
  for (size_t i = 0; i < claims.size(); ++i) {
    const TensorClaim& claim = claims[i];
    TensorInfo& tensor = contents.tensors[i];
    const std::optional<uint64_t> start = checked_add(contents.data_start, claim.data_offset);
    if (!start || !range_fits(*start, claim.data_bytes, file.size())) {
      reader.set_subject(cat("tensor ", quoted(tensor.name)));
      reader.damaged(claim.described_at, "its data (", claim.data_bytes, " bytes at data offset ", claim.data_offset,
                     ") reach past the end of the file (", file.size(), " bytes, data from ", contents.data_start,
                     "); the file may be incomplete");
    }
    tensor.file_offset = *start;
    tensor.data = file.subspan(*start, claim.data_bytes);
  }

  std::vector<size_t> order(claims.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return claims[a].data_offset < claims[b].data_offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorClaim& previous = claims[order[i - 1]];
    const TensorClaim& next = claims[order[i]];
    if (next.data_offset - previous.data_offset >= previous.data_bytes) continue;
    reader.set_subject(cat("tensor ", quoted(contents.tensors[order[i]].name)));
    reader.damaged(next.described_at, "its data overlap those of ", quoted(contents.tensors[order[i - 1]].name));
  }
}

void read_tensors(Reader& reader, uint64_t count, std::span<const std::byte> file, GgufContents& contents) {
  std::vector<TensorClaim> claims;
  claims.reserve(count);
  contents.tensors.resize(count);
  for (TensorInfo& tensor : contents.tensors) claims.push_back(read_tensor(reader, contents.alignment, tensor));
  const auto name_of = [&](size_t i) -> std::string_view { return contents.tensors[i].name; };
  const size_t duplicate = find_duplicate(count, name_of);
  if (duplicate != count) {
    reader.set_subject(cat("tensor ", quoted(name_of(duplicate))));
    reader.damaged(claims[duplicate].described_at, "the name occurs twice");
  }
  reader.set_subject({});
  const std::optional<uint64_t> data_start = checked_align_up(reader.offset(), contents.alignment);
  if (!data_start) reader.damaged(reader.offset(), "the start of the data overflows");
  contents.data_start = *data_start;
  place_tensors(reader, file, claims, contents);
}

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> file, const std::string& name) {
  Reader reader(file, name);
  read_magic_and_version(reader);
  const Counts counts = read_counts(reader);
  GgufContents contents;
  read_metadata(reader, counts.keys, contents);
  read_tensors(reader, counts.tensors, file, contents);
  return contents;
}

}  // namespace imp
