// imp._core.Tokenizer: the vocabulary of a model file, with or without an engine.
#include "text/tokenizer.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"
#include "core/error.h"
#include "formats/model_file.h"

namespace imp::bindings {
namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

void check_id(const Tokenizer& tokenizer, TokenId id) {
  if (id < 0 || id >= tokenizer.size())
    fail(ErrorCode::invalid_argument, "token id ", id, " is not in the vocabulary (0 to ", tokenizer.size() - 1, ")");
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  std::unique_ptr<ModelFile> file = open_model_file(path);
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(*file);
  if (!tokenizer)
    fail(ErrorCode::unsupported, path, ": the file has no tokenizer (tokenizer.ggml.model = \"no_vocab\"); such a ",
         "model works with token ids only");
  return tokenizer;
}

std::string decode(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool special) {
  for (TokenId id : ids) check_id(tokenizer, id);
  return tokenizer.decode(ids, special);
}

const char* type_name(TokenType type) {
  switch (type) {
    case TokenType::undefined: return "undefined";
    case TokenType::normal: return "normal";
    case TokenType::unknown: return "unknown";
    case TokenType::control: return "control";
    case TokenType::user_defined: return "user_defined";
    case TokenType::unused: return "unused";
    case TokenType::byte: return "byte";
  }
  return "undefined";
}

std::vector<TokenId> ids_of_type(const Tokenizer& tokenizer, std::string_view name) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < tokenizer.size(); ++id)
    if (name == type_name(tokenizer.type(id))) ids.push_back(id);
  return ids;
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  nb::class_<Tokenizer>(m, "Tokenizer", "Text <-> token ids. Every method may be called from any thread.")
      .def_static("open", &open_tokenizer, nb::arg("path"), Unlocked(), "The tokenizer of a model file.")
      .def(
          "encode",
          [](const Tokenizer& self, std::string_view text, bool add_special, bool parse_special) {
            nb::gil_scoped_release unlocked;
            return self.encode(text, {.add_special = add_special, .parse_special = parse_special});
          },
          nb::arg("text"), nb::arg("add_special") = true, nb::arg("parse_special") = false)
      .def(
          "encode_bytes",
          [](const Tokenizer& self, nb::bytes text, bool add_special, bool parse_special) {
            std::string_view view(text.c_str(), text.size());
            nb::gil_scoped_release unlocked;
            return self.encode(view, {.add_special = add_special, .parse_special = parse_special});
          },
          nb::arg("text"), nb::arg("add_special") = true, nb::arg("parse_special") = false)
      .def(
          "decode",
          [](const Tokenizer& self, const std::vector<TokenId>& ids, bool special) {
            return to_str(decode(self, ids, special));
          },
          nb::arg("ids"), nb::arg("special") = false)
      .def(
          "decode_bytes",
          [](const Tokenizer& self, const std::vector<TokenId>& ids, bool special) {
            std::string text = decode(self, ids, special);
            return nb::bytes(text.data(), text.size());
          },
          nb::arg("ids"), nb::arg("special") = false)
      .def(
          "piece",
          [](const Tokenizer& self, TokenId id, bool special) {
            check_id(self, id);
            std::string text = self.piece(id, special);
            return nb::bytes(text.data(), text.size());
          },
          nb::arg("token"), nb::arg("special") = false)
      .def(
          "token_text",
          [](const Tokenizer& self, TokenId id) {
            check_id(self, id);
            return to_str(self.token_text(id));
          },
          nb::arg("token"))
      .def(
          "type",
          [](const Tokenizer& self, TokenId id) {
            check_id(self, id);
            return type_name(self.type(id));
          },
          nb::arg("token"))
      .def("ids_of_type", &ids_of_type, nb::arg("name"))
      .def("find", &Tokenizer::find, nb::arg("token_text"))
      .def("is_stop", &Tokenizer::is_stop, nb::arg("token"))
      .def_prop_ro("size", &Tokenizer::size)
      .def_prop_ro("model_name", &Tokenizer::model_name)
      .def_prop_ro("pre_name", &Tokenizer::pre_name)
      .def_prop_ro("bos", [](const Tokenizer& self) { return self.special().bos; })
      .def_prop_ro("eos", [](const Tokenizer& self) { return self.special().eos; })
      .def_prop_ro("eot", [](const Tokenizer& self) { return self.special().eot; })
      .def_prop_ro("unk", [](const Tokenizer& self) { return self.special().unk; })
      .def_prop_ro("pad", [](const Tokenizer& self) { return self.special().pad; })
      .def_prop_ro("add_bos", [](const Tokenizer& self) { return self.special().add_bos; })
      .def_prop_ro("add_eos", [](const Tokenizer& self) { return self.special().add_eos; })
      .def_prop_ro("stop_ids", [](const Tokenizer& self) { return self.special().stop; });
  m.def(
      "read_chat_template",
      [](const std::string& path) {
        std::unique_ptr<ModelFile> file = open_model_file(path);
        return file->get_string("tokenizer.chat_template", "");
      },
      nb::arg("path"), Unlocked(), "The chat template of a model file, \"\" where it has none.");
}

}  // namespace imp::bindings
