#pragma once
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "config/config.h"
#include "engine/engine.h"
#include "formats/model_file.h"
#include "imp/imp.h"
#include "model/spec.h"

// What is behind the opaque handles.

struct imp_config {
  imp::Config config = imp::Config::defaults_for_embedders();
};

struct imp_model {
  std::unique_ptr<imp::ModelFile> file;
  imp::ModelSpec spec;
  std::unique_ptr<imp::Tokenizer> tokenizer;  // null: the file has none
  std::string chat_template;
};

struct imp_context {
  std::unique_ptr<imp::Engine> engine;
  std::string device_line;
  std::atomic<bool> cancel_wanted = false;
  imp_logits_mask_fn mask_fn = nullptr;
  void* mask_user = nullptr;

  // The sequence of imp_prefill() and imp_decode_step().
  std::optional<imp::RequestId> open_request;
  std::deque<imp::TokenEvent> drawn;  // not handed out yet
};
