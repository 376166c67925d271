// imp._core.SamplingParams: the fields of the C++ struct under the same names. imp.SamplingParams fills it.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"
#include "sampling/params.h"

namespace imp::bindings {

void bind_sampling(nb::module_& m) {
  using P = SamplingParams;
  nb::class_<P>(m, "SamplingParams", "How the next token is drawn.")
      .def(nb::init<>())
      .def_rw("temperature", &P::temperature)
      .def_rw("top_k", &P::top_k)
      .def_rw("top_p", &P::top_p)
      .def_rw("min_p", &P::min_p)
      .def_rw("typical_p", &P::typical_p)
      .def_rw("repetition_penalty", &P::repetition_penalty)
      .def_rw("frequency_penalty", &P::frequency_penalty)
      .def_rw("presence_penalty", &P::presence_penalty)
      .def_rw("penalty_last_n", &P::penalty_last_n)
      .def_rw("dry_multiplier", &P::dry_multiplier)
      .def_rw("dry_base", &P::dry_base)
      .def_rw("dry_allowed_length", &P::dry_allowed_length)
      .def_rw("dry_penalty_last_n", &P::dry_penalty_last_n)
      .def_rw("dry_sequence_breakers", &P::dry_sequence_breakers)
      .def_rw("mirostat", &P::mirostat)
      .def_rw("mirostat_tau", &P::mirostat_tau)
      .def_rw("mirostat_eta", &P::mirostat_eta)
      .def_rw("logit_bias", &P::logit_bias)
      .def_rw("allowed_token_ids", &P::allowed_token_ids)
      .def_rw("banned_token_ids", &P::banned_token_ids)
      .def_rw("seed", &P::seed, nb::arg().none())
      .def_rw("max_tokens", &P::max_tokens)
      .def_rw("min_tokens", &P::min_tokens)
      .def_rw("stop", &P::stop)
      .def_rw("stop_token_ids", &P::stop_token_ids)
      .def_rw("ignore_eos", &P::ignore_eos)
      .def_rw("include_stop_str_in_output", &P::include_stop_str_in_output)
      .def_rw("skip_special_tokens", &P::skip_special_tokens)
      .def_rw("think_budget", &P::think_budget)
      .def_rw("n", &P::n)
      .def_rw("logprobs", &P::logprobs)
      .def_rw("prompt_logprobs", &P::prompt_logprobs)
      .def("validate", &P::validate, nb::arg("vocab_size"),
           "Raises ValueError naming the field, its value and the allowed range.");
}

}  // namespace imp::bindings
