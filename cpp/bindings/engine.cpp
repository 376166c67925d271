// imp._core.Engine: one model on one device. Every native call that may take long runs without the GIL;
// imp/engine.py keeps two threads from calling at once.
#include "engine/engine.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"

namespace imp::bindings {
namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;
using LogitsArray = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;

const char* finish_text(FinishReason reason) {
  switch (reason) {
    case FinishReason::none: return "";
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "abort";
    case FinishReason::error: return "error";
  }
  return "error";
}

// float32 [rows, vocab_size]; the array owns the memory.
LogitsArray logits(Engine& engine, const std::vector<TokenId>& tokens, bool all_rows) {
  auto values = std::make_unique<std::vector<float>>();
  {
    nb::gil_scoped_release unlocked;
    *values = engine.logits(tokens, all_rows);
  }
  const size_t columns = static_cast<size_t>(engine.vocab_size());
  const size_t rows = values->size() / columns;
  float* data = values->data();
  nb::capsule owner(values.release(), [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return LogitsArray(data, {rows, columns}, owner);
}

// Carries a Python exception (Ctrl-C, or one of `progress`) out of the engine's callback.
class ProgressCall {
 public:
  explicit ProgressCall(nb::object progress) : progress_(std::move(progress)) {}
  ~ProgressCall() { Py_XDECREF(raised_); }

  bool operator()(int64_t done, int64_t total, double value) {
    nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) return keep_error();
    if (progress_.is_none()) return true;
    PyObject* result = PyObject_CallFunction(progress_.ptr(), "LLd", static_cast<long long>(done),
                                             static_cast<long long>(total), value);
    if (result == nullptr) return keep_error();
    Py_DECREF(result);
    return true;
  }

  void rethrow() {
    if (raised_ == nullptr) return;
    PyErr_SetRaisedException(std::exchange(raised_, nullptr));
    throw nb::python_error();
  }

 private:
  bool keep_error() {
    raised_ = PyErr_GetRaisedException();
    return false;
  }
  nb::object progress_;
  PyObject* raised_ = nullptr;
};

Engine::Perplexity perplexity(Engine& engine, const std::vector<TokenId>& tokens, int context, nb::object progress) {
  ProgressCall call(std::move(progress));
  try {
    Engine::Perplexity result;
    {
      nb::gil_scoped_release unlocked;
      result = engine.perplexity(tokens, context, std::ref(call));
    }
    call.rethrow();
    return result;
  } catch (const Error& e) {
    if (e.code() == ErrorCode::cancelled) call.rethrow();
    throw;
  }
}

// One step; each event goes to the list of its request, events of requests without a list are dropped. One call, so
// that Ctrl-C cannot come between the step and the filing and lose events that another thread waits for.
void step_into(Engine& engine, nb::typed<nb::dict, int, nb::typed<nb::list, TokenEvent>> filed) {
  std::vector<TokenEvent> events;
  {
    nb::gil_scoped_release unlocked;
    events = engine.step();
  }
  for (TokenEvent& event : events) {
    nb::object request = nb::cast(event.request);
    if (filed.contains(request)) nb::cast<nb::list>(filed[request]).append(std::move(event));
  }
}

void bind_results(nb::module_& m) {
  nb::class_<TokenLogprob>(m, "TokenLogprob")
      .def_ro("id", &TokenLogprob::id)
      .def_ro("logprob", &TokenLogprob::logprob)
      .def_ro("rank", &TokenLogprob::rank);
  nb::class_<TokenEvent>(m, "TokenEvent", "What one sequence gained in a step.")
      .def_ro("request", &TokenEvent::request)
      .def_ro("index", &TokenEvent::index)
      .def_ro("tokens", &TokenEvent::tokens)
      .def_prop_ro("text", [](const TokenEvent& self) { return to_str(self.text); })
      .def_ro("logprobs", &TokenEvent::logprobs)
      .def_prop_ro("finish", [](const TokenEvent& self) { return finish_text(self.finish); })
      .def_prop_ro("stop_reason", [](const TokenEvent& self) { return to_str(self.stop_reason); })
      .def_prop_ro("error_code", [](const TokenEvent& self) { return static_cast<int>(self.error); })
      .def_prop_ro("error_message", [](const TokenEvent& self) { return to_str(self.error_message); });
  nb::class_<RequestTimings>(m, "RequestTimings")
      .def_ro("queued_s", &RequestTimings::queued_s)
      .def_ro("prefill_s", &RequestTimings::prefill_s)
      .def_ro("decode_s", &RequestTimings::decode_s)
      .def_ro("prompt_tokens", &RequestTimings::prompt_tokens)
      .def_ro("generated_tokens", &RequestTimings::generated_tokens);
  nb::class_<Engine::Perplexity>(m, "Perplexity")
      .def_ro("value", &Engine::Perplexity::value)
      .def_ro("stderr", &Engine::Perplexity::stderr_)
      .def_ro("windows", &Engine::Perplexity::windows)
      .def_ro("scored_tokens", &Engine::Perplexity::scored_tokens);
}

void construct(Engine* self, const std::string& model_path, const Config& config, const std::string& device,
               int num_threads, uint64_t memory_budget_bytes, const std::string& force_isa,
               const std::string& force_linear, const std::string& force_sampling) {
  nb::gil_scoped_release unlocked;
  new (self) Engine({.model_path = model_path,
                     .device = device,
                     .num_threads = num_threads,
                     .memory_budget_bytes = memory_budget_bytes,
                     .force_isa = force_isa,
                     .force_linear = force_linear,
                     .force_sampling = force_sampling},
                    config);
}

}  // namespace

void bind_engine(nb::module_& m) {
  bind_results(m);
  nb::class_<Engine>(m, "Engine", "One model on one device; one thread at a time, cancel() from any.")
      .def("__init__", &construct, nb::arg("model_path"), nb::arg("config"), nb::arg("device") = "auto",
           nb::arg("num_threads") = 0, nb::arg("memory_budget_bytes") = 0, nb::arg("force_isa") = "",
           nb::arg("force_linear") = "", nb::arg("force_sampling") = "")
      .def(
          "submit",
          [](Engine& self, std::vector<TokenId> prompt, const SamplingParams& params) {
            return self.submit(std::move(prompt), params);
          },
          nb::arg("prompt"), nb::arg("params"), Unlocked())
      .def("step", &Engine::step, Unlocked())
      .def("step_into", &step_into, nb::arg("filed"))
      .def("has_work", &Engine::has_work)
      .def("cancel", &Engine::cancel, nb::arg("request"))
      .def("timings", &Engine::timings, nb::arg("request"))
      .def("prompt_logprobs", &Engine::prompt_logprobs, nb::arg("request"))
      .def("forget", &Engine::forget, nb::arg("request"))
      .def("logits", &logits, nb::arg("tokens"), nb::arg("all_rows") = false,
           nb::sig("def logits(self, tokens: Sequence[int], all_rows: bool = False) -> NDArray[numpy.float32]"))
      .def("perplexity", &perplexity, nb::arg("tokens"), nb::arg("context") = 512, nb::arg("progress") = nb::none(),
           nb::sig("def perplexity(self, tokens: Sequence[int], context: int = 512, "
                   "progress: Callable[[int, int, float], object] | None = None) -> Perplexity"))
      .def_prop_ro("tokenizer", &Engine::tokenizer, nb::rv_policy::reference_internal,
                   nb::sig("def tokenizer(self) -> Tokenizer | None"))
      .def_prop_ro("config", [](const Engine& self) { return Config(self.config()); })
      .def_prop_ro("vocab_size", &Engine::vocab_size)
      .def_prop_ro("max_seq_len", &Engine::max_seq_len)
      .def_prop_ro("device", &Engine::device)
      .def_prop_ro("device_line", &Engine::device_line)
      .def_prop_ro("chat_template", [](const Engine& self) { return to_str(self.chat_template()); })
      .def_prop_ro("model_description", &Engine::model_description)
      .def_prop_ro("num_parameters", &Engine::num_parameters)
      .def_prop_ro("model_bytes", &Engine::model_bytes)
      .def_prop_ro("bytes_per_token", &Engine::bytes_per_token)
      .def("report_json", &Engine::report_json)
      .def("explain_json", &Engine::explain_json, nb::arg("batch_sizes"))
      .def("reset", &Engine::reset, Unlocked())
      .def(
          "bench_prefill", [](Engine& self, const std::vector<TokenId>& tokens) { self.bench_prefill(tokens); },
          nb::arg("tokens"), Unlocked())
      .def("bench_decode", &Engine::bench_decode, nb::arg("token"), Unlocked());
}

}  // namespace imp::bindings
