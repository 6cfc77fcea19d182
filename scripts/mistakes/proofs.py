"""Mistakes in what is proved of a fit: the certificate, and the bias that it takes."""

from mistakes.mutant import Mutant

MUTANTS = [
    Mutant(
        "the first piece of a block certified alone",
        "solvers/certificate.py",
        "itertools.product(range(K), pieces(*T.shape))",
        "itertools.product(range(K), pieces(*T.shape)[:1])",
        "test_certificate.py::test_logits_in_pieces_and_not_kept_are_the_same[1]",
    ),
    Mutant(
        "the bias taken for its minimum as it is",
        "solvers/certificate.py",
        "minima = [minimise_bias(over[k], minima[k].b, data.parts.sum, rough_steps=steps[k]) for k in range(K)]",
        "pass",
        "test_certificate.py::test_gap_is_no_less_than_the_truth_at_any_parameters",
    ),
    Mutant(
        "what rounding does to the bias not counted",
        "solvers/certificate.py",
        "bound + excess + decrement + rounding, np.inf)",
        "bound + decrement + rounding, np.inf)",
        "test_certificate.py::test_what_is_certified_is_what_is_returned[30000000.0]",
    ),
    Mutant(
        "certified before W is rounded",
        "solvers/certificate.py",
        "V = np.concatenate([W / data.scale, np.zeros",
        "V = np.concatenate([V[:, :-1], np.zeros",
        "test_certificate.py::test_gap_is_no_less_than_the_truth_at_any_parameters",
    ),
    Mutant(
        "a class without weight given a bias",
        "solvers/certificate.py",
        "params = as_given(data, W, best, classes)",
        "params = as_given(data, W, best, np.ones_like(classes))",
        "test_certificate.py::test_a_class_without_weight_is_left_out_everywhere_alike[float32]",
    ),
    Mutant(
        "what conjugate gradients leave not counted",
        "solvers/bias.py",
        "0.0)) + left) ** 2",
        "0.0))) ** 2",
        "test_bias.py::test_what_conjugate_gradients_leave_is_counted",
    ),
    Mutant(
        "a hub's resistance for one way only",
        "solvers/bias.py",
        "resistance = 2 * float(np.max(1 / np.delete(conductance, hub)))",
        "resistance = float(np.min(1 / np.delete(conductance, hub)))",
        "test_bias.py::test_what_conjugate_gradients_leave_is_counted",
    ),
    Mutant(
        "a hundred rough steps of the bias",
        "solvers/bias.py",
        "if rough > rough_steps or",
        "if",
        "test_bias.py::test_the_bias_of_a_fit_that_was_broken_off_is_soon_given_up",
    ),
    Mutant(
        "a step of the bias divided by its range of 0",
        "solvers/bias.py",
        "not 0 < spread < np.inf:",
        "not spread < np.inf:",
        "test_bias.py::test_a_bias_that_no_step_moves_is_left_where_it_is",
    ),
    Mutant(
        "few steps for the bias of every fit",
        "solvers/bias.py",
        "rough_steps: int = BIAS_STEPS,",
        "rough_steps: int = ROUGH_STEPS,",
        "test_bias.py::test_the_bias_of_a_fit_that_arrived_is_proved_in_as_many_steps_as_it_takes",
    ),
    Mutant(
        "conjugate gradients over rounding that is a constant",
        "solvers/bias.py",
        "step, residue = np.zeros_like(gradient), gradient.mean() - gradient",
        "step, residue = np.zeros_like(gradient), -gradient",
        "test_bias.py::test_a_constant_that_rounding_leaves_in_the_gradient_of_the_bias_is_not_solved_for",
    ),
    Mutant(
        "the rounding of a centre that is taken off afterwards not counted",
        "solvers/certificate.py",
        "about_zero = data.scale * np.abs(data.centre)",
        "pass",
        "test_certificate.py::test_sparse_data_far_from_zero_have_an_exact_loss_and_a_true_gap",
    ),
    Mutant(
        "the bias of every problem given up",
        "solvers/certificate.py",
        "np.where(np.broadcast_to(broken_off, len(V)), ROUGH_STEPS, BIAS_STEPS)",
        "np.full(len(V), ROUGH_STEPS)",
        "test_bias.py::test_only_the_bias_of_problems_that_were_broken_off_is_given_up",
    ),
    Mutant(
        "the bias of a problem that was broken off proved at any price",
        "solvers/driver.py",
        "l2[which], broken_off=broken_off)",
        "l2[which])",
        "test_bias.py::test_only_the_bias_of_problems_that_were_broken_off_is_given_up",
    ),
]
